package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/profiles/strict"
)

// defaultVerb is what napitune does without a command.
const defaultVerb = "advise"

// order rearranges arguments to the only form that the library parses right:
// verb, options, "--", the rest. It stops parsing options at the first argument
// and knows an option only where it is defined, so that of
//
//	napitune --host x map        napitune map eth0 --format json
//
// the first would be refused and the second silently lose its format. Options
// that the verb does not have are refused here with a remedy.
func order(args []string, app *cli.App) ([]string, error) {
	if len(args) == 0 {
		args = []string{app.Name}
	}
	rest := args[1:]
	if len(rest) == 1 && rest[0] == "--version" {
		return []string{args[0], "version"}, nil
	}
	at := findVerb(rest, valued(app.Commands...))
	name := defaultVerb
	if at >= 0 {
		name = rest[at]
		rest = append(append([]string{}, rest[:at]...), rest[at+1:]...)
	}
	if at < 0 && hasHelp(rest) {
		return []string{args[0], "--help"}, nil
	}
	if name == "help" || name == "h" {
		return append([]string{args[0], "help"}, rest...), nil
	}
	command := app.Command(name)
	if command == nil {
		return nil, unknownVerb(name, args[1:][:at], app)
	}
	options, others, err := split(rest, command, app)
	if err != nil {
		return nil, err
	}
	out := append([]string{args[0], command.Name}, options...)
	if len(others) > 0 {
		out = append(append(out, "--"), others...)
	}
	return out, nil
}

// valued maps the options of commands to whether they take a value.
func valued(commands ...*cli.Command) map[string]bool {
	out := map[string]bool{"help": false, "h": false}
	for _, c := range commands {
		for _, f := range c.Flags {
			takes := true
			if d, ok := f.(cli.DocGenerationFlag); ok {
				takes = d.TakesValue()
			}
			for _, n := range f.Names() {
				out[n] = takes
			}
		}
	}
	return out
}

// findVerb is the place of the first argument that is neither an option nor
// the value of one; -1 if there is none.
func findVerb(args []string, known map[string]bool) int {
	for i := 0; i < len(args); i++ {
		name, isOption, hasValue := option(args[i])
		switch {
		case args[i] == "--":
			return -1
		case !isOption:
			return i
		case known[name] && !hasValue:
			i++
		}
	}
	return -1
}

// option takes an argument apart: the name without dashes, whether it is an
// option at all, and whether it carries its value after "=". A lone "-" stands
// for standard input or output and is no option.
func option(arg string) (name string, isOption, hasValue bool) {
	if len(arg) < 2 || arg[0] != '-' || arg == "--" {
		return "", false, false
	}
	name, _, hasValue = strings.Cut(strings.TrimPrefix(arg[1:], "-"), "=")
	return name, true, hasValue
}

func hasHelp(args []string) bool {
	for _, a := range args {
		if a == "--" {
			return false
		}
		if a == "-h" || a == "--help" {
			return true
		}
	}
	return false
}

// split separates the options of a command from its arguments.
func split(args []string, command *cli.Command, app *cli.App) (options, others []string, err error) {
	known := valued(command)
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			return options, append(others, args[i+1:]...), nil
		}
		name, isOption, hasValue := option(arg)
		if !isOption {
			others = append(others, arg)
			continue
		}
		takes, ok := known[name]
		if !ok {
			return nil, nil, unknownOption(arg, name, command, app)
		}
		options = append(options, arg)
		if !takes || hasValue {
			continue
		}
		if i+1 == len(args) || isKnownOption(args[i+1], known) {
			return nil, nil, fmt.Errorf("option %s needs a value", arg)
		}
		i++
		options = append(options, args[i])
	}
	return options, others, nil
}

func isKnownOption(arg string, known map[string]bool) bool {
	name, isOption, _ := option(arg)
	_, ok := known[name]
	return isOption && ok || arg == "--"
}

// unknownVerb blames a misspelt option instead if one stands right before the
// word: then that is its value.
func unknownVerb(name string, before []string, app *cli.App) error {
	if len(before) > 0 {
		last := before[len(before)-1]
		option, isOption, _ := option(last)
		if _, known := valued(app.Commands...)[option]; isOption && !known {
			return unknownOption(last, option, app.Command(defaultVerb), app)
		}
	}
	var names []string
	for _, c := range app.Commands {
		names = append(names, c.Name)
	}
	if near := strict.Near(name, names); len(near) > 0 {
		return fmt.Errorf("there is no command %q; did you mean %s?", name, strings.Join(near, ", "))
	}
	return fmt.Errorf("there is no command %q (napitune --help lists them; a device is named with --dev)", name)
}

func unknownOption(arg, name string, command *cli.Command, app *cli.App) error {
	for _, c := range app.Commands {
		if _, ok := valued(c)[name]; ok {
			return fmt.Errorf("%s has no option %s; %s has", command.Name, arg, c.Name)
		}
	}
	var names []string
	for n := range valued(command) {
		names = append(names, n)
	}
	hint := fmt.Sprintf("napitune %s --help lists them", command.Name)
	if near := strict.Near(name, names); len(near) > 0 {
		hint = "did you mean " + dashed(near[0]) + "?"
	}
	return fmt.Errorf("%s has no option %s (%s)", command.Name, arg, hint)
}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}
