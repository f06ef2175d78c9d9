package fingerprint

import "strings"

func osRelease(m machine, f *Facts) error {
	return m.lines("etc/os-release", "=", func(k, v string) {
		v = strings.Trim(v, `"'`)
		switch k {
		case "ID":
			f.set("os.name", v)
		case "VERSION_ID":
			f.set("os.version", v)
		}
	})
}
