server {
  enabled = "perhaps"
  expect  = [3]
}
ports { http = "many" }
