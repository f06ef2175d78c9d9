name = "n1"
server {
  enabled = true
  expct   = 3
}
clinet {
  enabled = true
}
regio = "eu"
quux  = 1
