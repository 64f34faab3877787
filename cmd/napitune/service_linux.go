package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/coreos/go-systemd/v22/journal"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/live"
)

// systemService is the service manager and journal of the system.
func systemService() service {
	s := service{
		Events:  func() (*host.Events, error) { return live.OpenEvents(live.Options{}) },
		Notify:  func(state string) { _, _ = daemon.SdNotify(false, state) },
		Hangups: hangups,
	}
	s.Watchdog, _ = daemon.SdWatchdogEnabled(false)
	// Fields are of use only where the text would go to the journal anyway.
	if is, err := journal.StderrIsJournalStream(); err == nil && is {
		s.Log = journal.Send
	}
	return s
}

// hangups takes SIGHUP away from what ends the process.
func hangups() (<-chan struct{}, func()) {
	signal.Ignore(syscall.SIGHUP)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	out := make(chan struct{})
	go func() {
		defer close(out)
		for range signals {
			out <- struct{}{}
		}
	}()
	return out, func() {
		signal.Stop(signals)
		close(signals)
	}
}
