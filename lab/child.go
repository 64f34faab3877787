package lab

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

// Signals end the lab in good order. One that whoever started it has it ignore, as
// nohup does, stays ignored: to catch it would end a run that was to go on.
func Signals() []os.Signal {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	return signals
}

// Child is a command that is asked to end, with all that it started, so that it
// can clean up, where exec.CommandContext kills: when the context ends. When this
// program ends without a word, the kernel asks the command alone.
func Child(ctx context.Context, name string, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, name, args...)
	command.WaitDelay = 20 * time.Second
	command.SysProcAttr = &syscall.SysProcAttr{}
	command.Cancel = func() error { return terminate(command.Process.Pid) }
	ofItsOwn(command.SysProcAttr)
	endWithParent(command.SysProcAttr, syscall.SIGTERM)
	return command
}

// RunChild runs a command that is to end with this program. What the kernel
// watches is the thread that started it.
func RunChild(command *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return command.Run()
}

// RemoveAll removes what processes that were killed may still be writing into.
func RemoveAll(dir string) {
	for range 20 {
		if os.RemoveAll(dir) == nil {
			return
		}
		<-time.After(100 * time.Millisecond)
	}
}
