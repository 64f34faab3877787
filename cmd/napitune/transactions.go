package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/cmd/napitune/report"
)

// transactionFlags are the options of verbs about what was applied here.
func transactionFlags() []cli.Flag {
	shared := sharedFlags(documentFormats()...)
	var out []cli.Flag
	for _, f := range shared {
		switch f.Names()[0] {
		case "format", "v", "no-color":
			out = append(out, f)
		}
	}
	return out
}

func confirmCommand(e env) *cli.Command {
	return &cli.Command{
		Name:        "confirm",
		Usage:       "let the changes of apply --confirm-within stay",
		ArgsUsage:   "[ID]",
		Description: "Without an ID it confirms the last transaction, which must not have been rolled back. Confirming twice is no error.",
		Flags:       transactionFlags(),
		Action: func(c *cli.Context) error {
			return conclude(c, e, func(a *apply.Applier, id string) (apply.Result, error) { return a.Confirm(id) },
				func(apply.Result) int { return exitDone })
		},
	}
}

func rollbackCommand(e env) *cli.Command {
	return &cli.Command{
		Name:      "rollback",
		Usage:     "put back what apply changed, also after a crash",
		ArgsUsage: "[ID]",
		Description: "Without an ID it undoes the last transaction that is not undone. A setting that somebody else changed since is\n" +
			"left alone and named; then it ends with 4. It cannot be interrupted.",
		Flags: append(transactionFlags(),
			&cli.BoolFlag{Name: "unconfirmed", Usage: "do nothing if the transaction is confirmed; needs an ID. The timer of apply --confirm-within runs this"}),
		Action: func(c *cli.Context) error {
			if c.Bool("unconfirmed") {
				return rollBackUnconfirmed(c, e)
			}
			return conclude(c, e, func(a *apply.Applier, id string) (apply.Result, error) { return a.Rollback(c.Context, id) },
				apply.Result.RollbackExitCode)
		},
	}
}

func forgetCommand(e env) *cli.Command {
	return &cli.Command{
		Name:      "forget",
		Usage:     "take a transaction out of the way without touching the host",
		ArgsUsage: "ID",
		Description: "For what a rollback could not restore, once somebody has looked at it: the transaction is not reported any more\n" +
			"and cannot be rolled back. Also for transactions of network namespaces that are gone.",
		Flags: append(transactionFlags(),
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask; needed where nobody can be asked"}),
		Action: func(c *cli.Context) error { return forget(c, e) },
	}
}

// forget shows what would be left as it is, and asks.
func forget(c *cli.Context, e env) error {
	id := c.Args().First()
	switch {
	case id == "":
		return errors.New("forget needs the ID of a transaction (napitune status lists them)")
	case !c.Bool("yes") && (!e.StdinTTY || !e.StderrTTY):
		return errors.New("nobody can be asked, since standard input or error is no terminal: --yes forgets without asking, napitune status shows the transaction")
	case !c.Bool("yes"):
		if err := askToForget(c, e, id); err != nil {
			return err
		}
	}
	return conclude(c, e, func(a *apply.Applier, id string) (apply.Result, error) { return a.Forget(id) },
		func(apply.Result) int { return exitDone })
}

func askToForget(c *cli.Context, e env, id string) error {
	o, err := parseOptions(c, e, documentFormats()...)
	if err != nil {
		return err
	}
	_, a, err := changeable(e, c.Command.Name, o)
	if err != nil {
		return err
	}
	all, err := a.Status()
	if err != nil {
		return err
	}
	at := slices.IndexFunc(all, func(s apply.Summary) bool { return s.ID == id })
	if at < 0 {
		return fmt.Errorf("forget %s: %w (napitune status lists them)", id, apply.ErrNoTransaction)
	}
	if err := report.NewStatus(all[at:at+1]).Text(e.Stderr, o.style); err != nil {
		return err
	}
	answer, err := newAudience(e).ask(c.Context, "Leave these settings as they are and forget "+id+"?")
	if err == nil && answer != yes {
		err = errors.New("not forgotten: the answer was not yes")
	}
	return err
}

// conclude ends a transaction: confirms, rolls back or forgets.
func conclude(c *cli.Context, e env, act func(*apply.Applier, string) (apply.Result, error), code func(apply.Result) int) error {
	verb := c.Command.Name
	if c.NArg() > 1 {
		return fmt.Errorf("%s takes one ID and not %d", verb, c.NArg())
	}
	o, err := parseOptions(c, e, documentFormats()...)
	if err != nil {
		return err
	}
	m, a, err := changeable(e, verb, o)
	if err != nil {
		return err
	}
	release := hold()
	defer release()
	result, err := act(a, c.Args().First())
	newGuard(e, m.last()).settle(o, result)
	if result.ID == "" {
		return &ended{exitError, err}
	}
	if err == nil || verb == "rollback" {
		announce(e, report.NewTransaction(verb, result), o)
	}
	return ending(code(result), err)
}

func statusCommand(e env) *cli.Command {
	return &cli.Command{
		Name:      "status",
		Usage:     "list what was applied since the boot, and what was changed by others since",
		ArgsUsage: noArguments,
		Flags:     transactionFlags(),
		Action:    func(c *cli.Context) error { return listTransactions(c, e) },
	}
}

func listTransactions(c *cli.Context, e env) error {
	o, err := parseOptions(c, e, documentFormats()...)
	if err != nil {
		return err
	}
	if e.Files.ReadDir == nil {
		return printDocument(e, report.NewStatus(nil), o)
	}
	m, err := e.Open("")
	if err != nil {
		return err
	}
	a, err := applier(e, m, o)
	if err != nil {
		return err
	}
	list, err := a.Status()
	if err != nil {
		return private(journalDir, "status", err)
	}
	document := report.NewStatus(list)
	ident, err := m.last().Ident()
	if err != nil {
		return err
	}
	if document.Guard, err = guardReport(e, ident.BootID); err != nil {
		return private(guardFile, "status", err)
	}
	return printDocument(e, document, o)
}

func historyCommand(e env) *cli.Command {
	return &cli.Command{
		Name:      "history",
		Usage:     "list what was ever applied and rolled back here, and why",
		ArgsUsage: noArguments,
		Flags:     transactionFlags(),
		Action:    func(c *cli.Context) error { return listEvents(c, e) },
	}
}

func listEvents(c *cli.Context, e env) error {
	o, err := parseOptions(c, e, documentFormats()...)
	if err != nil {
		return err
	}
	if e.Files.ReadFile == nil {
		return printDocument(e, report.NewHistory(nil, 0), o)
	}
	a := apply.Applier{Files: e.Files, History: historyFile}
	events, damaged, err := a.Events()
	if err != nil {
		return private(historyFile, "history", err)
	}
	return printDocument(e, report.NewHistory(events, damaged), o)
}

// private names the remedy where a file is root's.
func private(name, verb string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%s is root's: sudo napitune %s", name, verb)
	}
	return err
}
