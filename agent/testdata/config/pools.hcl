client {
  enabled = true
  pool "a" { path = "/x" }
  pool "a" { path = "/y" }
}
