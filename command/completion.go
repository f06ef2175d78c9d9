package command

import "fmt"

// The shells' own words for "ask the program itself": it answers in COMP_LINE
// mode (see Run).
var completions = map[string]string{
	"bash": "complete -o default -C novacron novacron\n",
	"zsh":  "autoload -U +X bashcompinit && bashcompinit\ncomplete -o nospace -C novacron novacron\n",
	"fish": `function __complete_novacron
    set -lx COMP_LINE (commandline -cp)
    test -z (commandline -ct)
    and set COMP_LINE "$COMP_LINE "
    novacron
end
complete -f -c novacron -a "(__complete_novacron)"
`,
}

func completionSpecs() []*spec {
	return []*spec{{
		name: "completion", args: "bash|zsh|fish", min: 1, max: 1, synopsis: "print shell completion", local: true,
		long:     "Prints what your shell needs to complete commands and options.",
		examples: []string{"novacron completion bash >/etc/bash_completion.d/novacron", "novacron completion zsh >>~/.zshrc", "novacron completion fish >~/.config/fish/completions/novacron.fish"},
		build: simple(func(c *call) error {
			s, ok := completions[c.args[0]]
			if !ok {
				return usagef("there is no completion for %q: bash, zsh or fish", c.args[0])
			}
			_, err := fmt.Fprint(c.env.Stdout, s)
			return err
		}),
	}}
}
