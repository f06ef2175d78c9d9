name       = "Node_1"
region     = ""
data_dir   = "var/lib"
bind_addr  = "localhost"
advertise  = "0.0.0.0"
ports {
  http = 7647
  serf = 70000
}
log {
  level  = "wran"
  format = "xml"
}
server {
  enabled         = true
  expect          = 30
  profile         = "fsat"
  raft_multiplier = 50
  join            = ["10.0.0.1"]
}
client {
  enabled   = true
  cpu_ratio = -1
  image_idle = "a day"
  reserved {
    cores  = -2
    memory = "lots"
  }
  hypervisor {
    kind         = "xen"
    acceleration = "kvmm"
  }
  pool "Bad_Name" {
    type = "lvm"
    path = "relative"
  }
  guard {
    dir      = "run/guard"
    spawn    = false
    watchdog = "/dev/../dev/watchdog"
  }
}
join {
  addresses  = ["10.0.0.1:notaport"]
  token      = "a"
  token_file = "/nonexistent/token"
}
http {
  addr      = "everywhere"
  cert_file = "/nonexistent/crt"
}
