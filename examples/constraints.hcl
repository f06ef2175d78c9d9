# Where a VM may run, and what happens when something goes wrong.
vm "constraints" {
  datacenters = ["dc1", "dc2"]
  priority    = 80
  labels      = { app = "db", role = "replica" }

  cpu {
    cores   = 4
    reserve = 1.5 # of the host's cores, instead of all four
    model   = "baseline"
  }
  memory = "2GiB"

  disk "root" {
    size = "20GiB"
    pool = "default"
  }

  # Hard rules on the node.
  constraint {
    attribute = "kernel.name"
    value     = "linux"
  }
  constraint {
    attribute = "label.rack"
    operator  = "in"
    value     = "r1,r2,r3"
  }
  constraint {
    attribute = "kernel.version"
    operator  = ">="
    value     = "5.10"
  }

  # Not beside another VM of the same application; near the web servers if
  # that is possible.
  anti_affinity {
    selector = { app = "db" }
  }
  affinity {
    selector = { app = "shop", tier = "web" }
    domain   = "node.datacenter"
    weight   = 30
  }
  spread {
    attribute = "label.rack"
    weight    = 80
  }

  restart {
    policy   = "on-failure"
    attempts = 5
    interval = "30m"
    delay    = "10s"
  }
  ha {
    policy = "keep"
  }
  protection = true
}
