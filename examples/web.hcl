# A web server that sets itself up at its first boot.
variable "image" {
  description = "Name of the image, as in: novacron image list"
  default     = "debian-12"
}

variable "greeting" {
  default = "Hello from NovaCron"
}

vm "web" {
  description = "A web server"
  labels = {
    app  = "shop"
    tier = "web"
  }

  cpu    = 2
  memory = "1GiB"

  disk "root" {
    image = var.image
    size  = "10GiB"
    boot  = 1
  }

  network "lan" {}

  cloud_init {
    hostname = "web"
    ssh_keys = [
      "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl admin@example",
    ]
    # What is for the shell and not for this file is written with two signs: $${HOME}.
    user_data = <<-EOT
      #cloud-config
      packages: [nginx]
      write_files:
        - path: /var/www/html/index.html
          content: ${var.greeting}
      runcmd:
        - echo "set up in $${HOME}" >> /var/log/setup.log
    EOT
  }

  stop_timeout = "90s"
}
