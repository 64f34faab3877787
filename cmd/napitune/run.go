package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/apply/deadline"
	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect/host"
)

// env is everything that the command takes from its surroundings, so that
// tests can run it as a function.
type env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Open opens the running machine ("") or a captured one (a path).
	Open    func(path string) (*machine, error)
	Version string
	// IsTTY and StderrTTY say that Stdout and Stderr are terminals; Width is
	// the columns of Stdout, 0 if unknown.
	IsTTY, StderrTTY bool
	Width            int
	NoColor          bool
	// Usage is what this process has cost so far; nil if that cannot be told.
	Usage func() report.Overhead
	// Probes attaches the in-kernel probes; nil where they are not available.
	Probes probing
	// StdinTTY says that Stdin is a terminal, so that somebody can be asked.
	StdinTTY bool
	// Writer opens the running machine for changing; nil where nothing is changed.
	Writer func() (*host.Writer, error)
	// Systemd reaches the PID 1 that keeps timers; nil where none is used.
	Systemd func(ctx context.Context) (deadline.Manager, error)
	// Command runs another program and returns what it printed on both streams;
	// nil where none is run.
	Command func(ctx context.Context, name string, args ...string) ([]byte, error)
	// SitePolicy is the policy file that judges this machine unless --profile
	// names another; "" or a file that is not there: none.
	SitePolicy string
	// Files keeps journals and history; without ReadDir there are none.
	Files apply.Files
	// Service is what the guard needs as a service.
	Service service
}

// Exit codes. They are documented in the manual and never reused.
const (
	exitDone    = 0 // healthy, or done
	exitError   = 1
	exitChanges = 2 // advise found something to change
	// 3 and 4 are apply.ExitRolledBack and apply.ExitDirty.
	// exitConfig is what systemd calls CONFIG (systemd.exec(5)): the guard's profile
	// cannot be read, and starting it again would not help.
	exitConfig = 78
	// exitSignal plus the number of a signal is the shell's convention for a
	// command that a signal ended.
	exitSignal = 128
)

// errChanges makes advise end with exitChanges. It is no failure and not printed.
var errChanges = errors.New("changes are advised")

// ended makes a verb end with a code of its own. An err is printed.
type ended struct {
	code int
	err  error
}

func (e *ended) Error() string { return fmt.Sprintf("ends with %d: %v", e.code, e.err) }

func (e *ended) Unwrap() error { return e.err }

// run is the whole command: arguments and surroundings in, exit code out.
func run(ctx context.Context, args []string, e env) int {
	app := newApp(e)
	if len(args) > 1 && args[1] == completeVerb {
		for _, word := range complete(app, args[2:]) {
			_, _ = fmt.Fprintln(e.Stdout, word)
		}
		return exitDone
	}
	ordered, err := order(args, app)
	if err == nil {
		warnUnfinished(e, ordered[1])
		warnContested(e, ordered[1])
		err = app.RunContext(ctx, ordered)
	}
	return exitCode(ctx, err, e.Stderr)
}

func exitCode(ctx context.Context, err error, stderr io.Writer) int {
	var signal interrupted
	var end *ended
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errChanges):
		return exitChanges
	case errors.As(err, &end):
		if end.err != nil {
			_, _ = fmt.Fprintf(stderr, "napitune: %v\n", end.err)
		}
		return end.code
	case errors.As(context.Cause(ctx), &signal):
		_, _ = fmt.Fprintln(stderr, "napitune: interrupted; nothing was changed")
		return exitSignal + int(signal.signal)
	default:
		_, _ = fmt.Fprintf(stderr, "napitune: %v\n", err)
		return exitError
	}
}

const description = `napitune measures how this host receives and sends packets, says what is wrong and why, and proposes
the exact kernel and NIC settings that would mend it. Only apply, rollback, boot and guard change settings; all else is advice.

Without a command, napitune advises. It reads the running machine or, with --host, a captured one.

EXIT STATUS: 0 healthy or done, 1 error, 2 advise found something to change, 3 apply was rolled back and the host is as
it was, 4 the host is neither as wanted nor as it was, 78 guard cannot read its profile, 130 interrupted before anything
was changed.`

// newApp assembles the command line. Every shared flag is defined on each verb
// that uses it; order makes them valid before the verb as well.
func newApp(e env) *cli.App {
	app := &cli.App{
		Name:                      "napitune",
		Usage:                     "advice on how a Linux host receives and sends packets",
		UsageText:                 "napitune [advise] [OPTIONS]\nnapitune COMMAND [OPTIONS] [ARGUMENTS]",
		Description:               description,
		Commands:                  verbs(e),
		HideVersion:               true,
		DisableSliceFlagSeparator: true,
		Reader:                    e.Stdin,
		Writer:                    e.Stdout,
		ErrWriter:                 e.Stderr,
		// The library would call os.Exit itself for some errors.
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   usageError,
	}
	for _, c := range app.Commands {
		c.OnUsageError = usageError
		c.HideHelpCommand = true
	}
	return app
}

// verbs lists the commands in the order of the help text.
func verbs(e env) []*cli.Command {
	return []*cli.Command{
		adviseCommand(e), applyCommand(e), confirmCommand(e), rollbackCommand(e), forgetCommand(e), statusCommand(e), historyCommand(e),
		bootCommand(e), metricsCommand(e), guardCommand(e), mapCommand(e), knobsCommand(e), explainCommand(e), captureCommand(e),
		doctorCommand(e), profileCommand(e), completionCommand(e), manCommand(e), versionCommand(e),
	}
}

// usageError returns the error alone; the library would print the whole help to stdout.
func usageError(_ *cli.Context, err error, _ bool) error {
	return fmt.Errorf("%w (napitune --help lists the options)", err)
}

// refuseArguments ends a verb that takes none.
func refuseArguments(c *cli.Context) error {
	if c.NArg() == 0 {
		return nil
	}
	first := c.Args().First()
	if strings.HasPrefix(first, "-") {
		return fmt.Errorf("%s takes no argument %q: options go before \"--\"", c.Command.Name, first)
	}
	return fmt.Errorf("%s takes no argument %q (a device is named with --dev %s)", c.Command.Name, first, first)
}

// logger writes what happens on stderr: warnings always, everything with -v.
func logger(e env, verbose bool) *slog.Logger {
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelDebug
	}
	drop := func(groups []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey && len(groups) == 0 {
			return slog.Attr{}
		}
		return a
	}
	return slog.New(slog.NewTextHandler(e.Stderr, &slog.HandlerOptions{Level: level, ReplaceAttr: drop}))
}
