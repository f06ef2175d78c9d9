package fingerprint

// bootID tells one boot from the next: evidence that everything that ran
// before is gone.
func bootID(m machine, f *Facts) (err error) {
	f.BootID, err = m.line("proc/sys/kernel/random/boot_id")
	return err
}
