package fingerprint

func hostname(m machine, f *Facts) error {
	v, err := m.line("proc/sys/kernel/hostname")
	f.set("host.name", v)
	return err
}
