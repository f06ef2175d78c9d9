server { enabled = true }
server { expect = 3 }
