// Command napitune measures how a Linux host receives and sends packets, says
// what is wrong and why, and proposes the settings that would mend it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"
)

func main() {
	ctx, stop := withSignals(context.Background())
	code := run(ctx, os.Args, process())
	stop()
	os.Exit(code)
}

// process is the real surroundings of the command.
func process() env {
	return env{
		Stdin:     os.Stdin,
		Stdout:    os.Stdout,
		Stderr:    os.Stderr,
		Open:      openHost,
		Version:   version(),
		IsTTY:     isTerminal(os.Stdout),
		StderrTTY: isTerminal(os.Stderr),
		Width:     terminalWidth(os.Stdout),
		NoColor:   os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb",
		Usage:     resourceUsage,
		Probes:    attachProbes,
	}
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// terminalWidth is the number of columns of the terminal, 0 if f is none.
func terminalWidth(f *os.File) int {
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// interrupted is the cause of a context that ended by a signal.
type interrupted struct{ signal syscall.Signal }

func (i interrupted) Error() string { return "interrupted (" + i.signal.String() + ")" }

// withSignals ends the context at the first SIGINT or SIGTERM. A second one
// gets the default treatment and ends the process at once.
func withSignals(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		select {
		case s := <-signals:
			signal.Stop(signals)
			number, _ := s.(syscall.Signal)
			cancel(interrupted{number})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
	}
}
