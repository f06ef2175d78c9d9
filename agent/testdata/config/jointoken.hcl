data_dir = "/nonexistent"
advertise = "10.0.0.1:7647"
client { enabled = true }
join { addresses = ["10.0.0.1:7647"] }
