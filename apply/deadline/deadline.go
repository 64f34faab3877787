// Package deadline has systemd roll a transaction back when its deadline passes
// without a confirmation, whatever became of the process that made it: PID 1
// keeps the timer, and runs the command anew.
package deadline

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"

	"github.com/napitune/napitune/detect/host"
)

// Manager is the little of PID 1 that a timer needs; a *dbus.Conn is one.
type Manager interface {
	StartTransientUnitAux(ctx context.Context, name, mode string, properties []dbus.Property, aux []dbus.PropertyCollection, ch chan<- string) (int, error)
	StopUnitContext(ctx context.Context, name, mode string, ch chan<- string) (int, error)
	Close()
}

// Connect opens the bus of the system, or without a bus daemon the socket that
// systemd keeps for root (sd_bus_default_system, /run/systemd/private).
func Connect(ctx context.Context) (Manager, error) { return dbus.NewWithContext(ctx) }

// Guard arms and disarms timers.
type Guard struct {
	// Connect opens PID 1; see the function of that name.
	Connect func(ctx context.Context) (Manager, error)
	// Command is what the timer runs: the absolute path of a program and its
	// arguments, to which the ID of the transaction is added.
	Command []string
}

// patience bounds the talk with PID 1. One that is busy for longer is no guard
// for a deadline of seconds.
const patience = 5 * time.Second

// Patience is how long the command may wait for a process that keeps the host
// locked, as one that was stopped does: not longer than anybody waits for a
// confirmation.
const Patience = 24 * time.Hour

const (
	// accuracy of the timer: systemd's own default is a minute
	// (systemd.timer(5), AccuracySec=).
	accuracy = 100 * time.Millisecond
	// longest a rollback may take before systemd ends it: after waiting, link
	// resets take seconds each. Restart= would do for the waiting from systemd 244
	// on; before, it makes a oneshot service that does not start at all.
	longest = Patience + 15*time.Minute
)

// Timer is the name of the unit that guards a transaction.
func Timer(id string) string { return prefix + id + ".timer" }

const prefix = "napitune-rollback-"

// Arm starts the timer: within from now the command runs. The units are
// transient and are gone when the command has ended.
func (g Guard) Arm(id string, within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	manager, err := g.Connect(ctx)
	if err != nil {
		return fmt.Errorf("reach systemd: %w", err)
	}
	defer manager.Close()
	timer, service := units(id, within, append(append([]string{}, g.Command...), id))
	done := make(chan string, 1)
	if _, err := manager.StartTransientUnitAux(ctx, Timer(id), "fail", timer, []dbus.PropertyCollection{service}, done); err != nil {
		return fmt.Errorf("start %s: %w", Timer(id), err)
	}
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("start %s: systemd says %q", Timer(id), result)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("start %s: systemd did not answer in %s", Timer(id), patience)
	}
}

// Disarm stops the timer of a transaction that is confirmed or undone. That
// there is none is no error. A rollback that has begun is not stopped.
func (g Guard) Disarm(id string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	manager, err := g.Connect(ctx)
	if err != nil {
		return fmt.Errorf("reach systemd: %w", err)
	}
	defer manager.Close()
	_, err = manager.StopUnitContext(ctx, Timer(id), "replace", nil)
	var answer godbus.Error
	if errors.As(err, &answer) && answer.Name == "org.freedesktop.systemd1.NoSuchUnit" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stop %s: %w", Timer(id), err)
	}
	return nil
}

// units are the timer and its service, as systemd-run(1) would make them.
func units(id string, within time.Duration, command []string) ([]dbus.Property, dbus.PropertyCollection) {
	type trigger struct {
		Base string
		USec uint64
	}
	about := "roll back napitune transaction " + id + " unless it is confirmed"
	timer := []dbus.Property{
		dbus.PropDescription(about),
		// Counted on the monotonic clock, which nobody sets.
		property("TimersMonotonic", []trigger{{"OnActiveSec", usec(within)}}),
		property("AccuracyUSec", usec(accuracy)),
		property("RemainAfterElapse", false),
		property("CollectMode", "inactive-or-failed"),
	}
	service := dbus.PropertyCollection{Name: prefix + id + ".service", Properties: []dbus.Property{
		dbus.PropDescription(about),
		dbus.PropType("oneshot"),
		dbus.PropExecStart(command, false),
		// RuntimeMaxSec= has no effect on a oneshot service (systemd.service(5)).
		property("TimeoutStartUSec", usec(longest)),
		property("CollectMode", "inactive-or-failed"),
	}}
	return timer, service
}

func property(name string, value any) dbus.Property {
	return dbus.Property{Name: name, Value: godbus.MakeVariant(value)}
}

func usec(d time.Duration) uint64 { return uint64(d.Microseconds()) }

// Obstacle says why PID 1 cannot roll back what this process changes, "" if it
// can: it must be systemd, see the same devices and find the same files.
func Obstacle(h *host.Host) string {
	// sd_booted(3)
	if _, err := fs.Stat(h.FS, "run/systemd/system"); err != nil {
		return "systemd does not run this machine"
	}
	for _, space := range []struct{ name, different string }{
		{"net", "this process is in another network namespace than systemd, whose timer would not find its devices"},
		{"mnt", "this process is in another mount namespace than systemd, whose timer might find another program or no journal"},
	} {
		ours, err := h.ReadLink("proc/self/ns/" + space.name)
		if err != nil {
			return fmt.Sprintf("own %s namespace unknown: %v", space.name, err)
		}
		theirs, err := h.ReadLink("proc/1/ns/" + space.name)
		if err != nil {
			return fmt.Sprintf("%s namespace of systemd unknown: %v", space.name, err)
		}
		if ours != theirs {
			return space.different
		}
	}
	return ""
}
