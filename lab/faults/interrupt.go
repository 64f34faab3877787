package faults

import (
	"fmt"
	"os"
	"os/exec"
	"time"
)

// Journal is where napitune writes down what it is about to do.
const Journal = "/run/napitune"

// Interrupt runs a command to its end, and does something to it or beside it
// some time after it began to write to its journal. The error is that of
// exec.Cmd.Run. A command that writes nothing just ends.
func Interrupt(command *exec.Cmd, after time.Duration, do func(*os.Process)) error {
	began := newest(Journal)
	if err := command.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	for newest(Journal) == began {
		select {
		case err := <-ended:
			return err
		case <-time.After(time.Millisecond):
		}
	}
	<-time.After(after)
	do(command.Process)
	return <-ended
}

// newest tells one state of a directory from the next by sizes and times.
func newest(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	out := ""
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			out += fmt.Sprintln(e.Name(), info.Size(), info.ModTime().UnixNano())
		}
	}
	return out
}
