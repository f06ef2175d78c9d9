// Command novacron is the whole of NovaCron: agent, command line and API.
package main

import (
	"os"

	"github.com/novacron/novacron/command"
)

func main() { command.Main(os.Args) }
