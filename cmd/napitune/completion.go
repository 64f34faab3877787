package main

import (
	"embed"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// completeVerb is the hidden first argument with which the completion scripts
// ask for candidates.
const completeVerb = "__complete"

//go:embed completion
var completionScripts embed.FS

func completionCommand(e env) *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print the completion script for a shell",
		ArgsUsage: "bash|zsh|fish",
		Description: "bash: source <(napitune completion bash)\n" +
			"zsh:  napitune completion zsh > \"${fpath[1]}/_napitune\"\n" +
			"fish: napitune completion fish > ~/.config/fish/completions/napitune.fish",
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return fmt.Errorf("completion needs one shell: bash, zsh or fish")
			}
			shell := c.Args().First()
			if !slices.Contains([]string{"bash", "zsh", "fish"}, shell) {
				return fmt.Errorf("completion for %q is not there; there is bash, zsh and fish", shell)
			}
			script, err := completionScripts.ReadFile("completion/napitune." + shell)
			if err != nil {
				return err
			}
			_, err = e.Stdout.Write(script)
			return err
		},
	}
}

// complete lists the candidates for the last of the words that follow
// "napitune" on a command line. An empty answer leaves it to the shell, which
// offers files.
func complete(app *cli.App, words []string) []string {
	if len(words) == 0 {
		words = []string{""}
	}
	before, current := words[:len(words)-1], words[len(words)-1]
	name := defaultVerb
	at := findVerb(before, valued(app.Commands...))
	if at >= 0 {
		name = before[at]
	}
	command := app.Command(name)
	if command == nil {
		return nil
	}
	return matching(candidates(app, command, before, current, at >= 0), current)
}

func candidates(app *cli.App, command *cli.Command, before []string, current string, hasVerb bool) []string {
	if len(before) > 0 {
		previous, isOption, hasValue := option(before[len(before)-1])
		if isOption && !hasValue && valued(command)[previous] {
			if previous == "probes" {
				return probeLists(current)
			}
			return optionValues(command, previous)
		}
	}
	if strings.HasPrefix(current, "-") {
		return optionNames(command)
	}
	switch {
	case !hasVerb:
		var names []string
		for _, c := range app.Commands {
			names = append(names, c.Name)
		}
		return names
	case command.Name == "explain":
		if m, err := manual(); err == nil {
			return m.Names()
		}
	case command.Name == "profile":
		return profileActionNames()
	case command.Name == "completion":
		return []string{"bash", "zsh", "fish"}
	}
	return nil
}

// optionValues are the words an option may have: those of --format are in its
// usage text, "print as WORD: text, json".
func optionValues(command *cli.Command, name string) []string {
	switch name {
	case "profile":
		return profileNames()
	case "cpus":
		return []string{"fixed", "solve"}
	case "match":
		return strings.Split(wayList(), ", ")
	case "max-disruption":
		return []string{"none", "packets", "link"}
	case "unclear":
		return []string{unclearKeep, unclearRollback}
	case "confirm-within":
		return []string{"30s", "60s", "5m"}
	case "for":
		return []string{"500ms", "10s", "30s", "1m"}
	case "format":
		for _, f := range command.Flags {
			if s, ok := f.(*cli.StringFlag); ok && s.Name == name {
				_, words, _ := strings.Cut(s.Usage, ": ")
				return strings.Split(words, ", ")
			}
		}
	}
	return nil
}

// probeLists go on with a list of probes.
func probeLists(current string) []string {
	all, _ := probeNames()
	before := current[:strings.LastIndex(current, ",")+1]
	out := []string{before + defaultProbes, before + allProbes}
	for _, name := range all {
		out = append(out, before+name)
	}
	return out
}

func optionNames(command *cli.Command) []string {
	var names []string
	for name := range valued(command) {
		names = append(names, dashed(name))
	}
	slices.Sort(names)
	return names
}

func matching(words []string, prefix string) []string {
	var out []string
	for _, w := range words {
		if strings.HasPrefix(w, prefix) {
			out = append(out, w)
		}
	}
	return out
}
