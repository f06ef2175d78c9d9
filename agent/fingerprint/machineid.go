package fingerprint

// machineID identifies the installation.
func machineID(m machine, f *Facts) (err error) {
	f.MachineID, err = m.line("etc/machine-id")
	return err
}
