# A kernel and an initrd started directly. Both are images of their own:
#   novacron image upload -kind kernel vmlinuz
#   novacron image upload -kind initrd initrd.img
vm "direct-boot" {
  cpu    = 1
  memory = "128MiB"

  boot {
    kernel  = "vmlinuz"
    initrd  = "initrd"
    cmdline = join(" ", ["console=ttyS0,115200", "panic=1", "quiet"])
  }

  console {
    serial = true
  }

  restart {
    policy = "never"
  }
}
