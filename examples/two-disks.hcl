# A disk cloned from an image, one that stays when the VM is deleted, and a
# volume that exists already: novacron volume create -size 50GiB archive
vm "two-disks" {
  cpu      = 2
  memory   = "2GiB"
  firmware = "uefi"

  disk "root" {
    image = "debian-12"
    size  = "12GiB"
    boot  = 1
  }

  disk "data" {
    size   = "40GiB"
    format = "raw"
    bus    = "scsi"
    keep   = true
  }

  disk "archive" {
    volume    = "archive"
    read_only = true
  }

  # cloud_init tells the guest its address; without one it would ask by DHCP.
  network "lan" {
    address = "192.168.100.20/24"
  }
  network "backup" {
    mac   = "52:54:00:12:34:56"
    model = "e1000e"
  }

  cloud_init {
    hostname = "two-disks"
  }

  console {
    vnc = true
  }
}
