package faults

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Journal is where napitune writes down what it is about to do and to undo: a
// file NAME.journal for each transaction, in a directory for each boot.
const Journal = "/run/napitune"

// Interrupt runs a command to its end, and does something to it or beside it
// some time after it began to write to a journal. A command that writes nothing,
// or ends before the time is over, just ends: amid is false then. The error is
// that of exec.Cmd.Run.
func Interrupt(command *exec.Cmd, after time.Duration, do func(*os.Process)) (amid bool, err error) {
	began := written(Journal)
	if err := command.Start(); err != nil {
		return false, err
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	for written(Journal) == began {
		select {
		case err := <-ended:
			return false, err
		case <-time.After(time.Millisecond):
		}
	}
	select {
	case err := <-ended:
		return false, err
	case <-time.After(after):
	}
	do(command.Process)
	return true, <-ended
}

// Killed reports whether a command was ended by a signal.
func Killed(err error) bool {
	var ended *exec.ExitError
	return errors.As(err, &ended) && !ended.Exited()
}

// written tells one state of the journals from the next by their sizes: what
// undoes something appends to the journal of what was done.
func written(dir string) string {
	var out strings.Builder
	// What vanishes meanwhile, or was never there, holds no journal.
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".journal" {
			return nil
		}
		if info, err := entry.Info(); err == nil {
			fmt.Fprintln(&out, path, info.Size())
		}
		return nil
	})
	return out.String()
}
