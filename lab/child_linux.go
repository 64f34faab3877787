package lab

import "syscall"

func endWithParent(attributes *syscall.SysProcAttr, signal syscall.Signal) {
	attributes.Pdeathsig = signal
}

// ofItsOwn gives a command a process group, which terminate ends: neither a shell
// nor go run passes on that it was asked to end.
func ofItsOwn(attributes *syscall.SysProcAttr) { attributes.Setpgid = true }

func terminate(pid int) error { return syscall.Kill(-pid, syscall.SIGTERM) }
