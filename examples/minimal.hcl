# The least that a VM needs: how much of a machine it is, and a disk.
vm "minimal" {
  cpu    = 1
  memory = "256MiB"

  disk "root" {
    size = "1GiB"
  }
}
