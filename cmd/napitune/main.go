// Command napitune measures how a Linux host receives and sends packets, says
// what is wrong and why, and proposes the settings that would mend it.
package main

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"github.com/napitune/napitune/apply/deadline"
	"github.com/napitune/napitune/apply/disk"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/live"
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
		StdinTTY:  isTerminal(os.Stdin),
		Writer:    func() (*host.Writer, error) { return live.OpenWriter(live.Options{}) },
		Systemd:   deadline.Connect,
		Files:     disk.Open("/"),
		Command: func(ctx context.Context, name string, args ...string) ([]byte, error) {
			return exec.CommandContext(ctx, name, args...).CombinedOutput()
		},
		Service: systemService(),
		// Beside /etc/napitune/profile.yaml, which holds desired values.
		SitePolicy: "/etc/napitune/policy.yaml",
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

// withSignals ends the context at the first of the endings. A second one gets
// the default treatment and ends the process at once, except where hold keeps it
// from that.
func withSignals(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, endings()...)
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

// endings are the signals that ask this process to end, without those that
// nohup or a shell set aside. The default treatment of SIGQUIT, a dump of
// goroutines, would end it between two writes.
func endings() []os.Signal {
	out := []os.Signal{os.Interrupt, syscall.SIGTERM}
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGQUIT} {
		if !signal.Ignored(s) {
			out = append(out, s)
		}
	}
	return out
}

// stops are how a terminal stops a process: Ctrl-Z, and reading or writing in the
// background.
var stops = []os.Signal{syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU}

// hold keeps signals from ending or stopping the process while it changes the
// host: the first that asks for an end still ends the context, which rolls back,
// and later ones do nothing. A reader of our output that goes away (SIGPIPE) must
// not end it either. Whoever is stopped with the lock keeps the host half changed,
// past any deadline; stops are ignored and not caught, because the kernel begins a
// read of the terminal anew after a handler, and fails it otherwise
// (drivers/tty/n_tty.c, job_control).
func hold() (release func()) {
	swallowed := make(chan os.Signal, 1)
	signal.Notify(swallowed, append(endings(), syscall.SIGPIPE)...)
	signal.Ignore(stops...)
	return func() {
		signal.Stop(swallowed)
		signal.Reset(stops...)
	}
}
