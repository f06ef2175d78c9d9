name = "n1
region = "eu"
