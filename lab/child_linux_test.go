package lab

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What a child started is asked to end with it, and may clean up.
func TestChildEndsWithItsOwn(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	script := `sh -c 'trap "touch $0/cleaned; exit 0" TERM; echo $$ >$0/pid; mv $0/pid $0/ready; while :; do sleep 0.01; done' ` + dir + `; true`
	command := Child(ctx, "sh", "-c", script)
	ended := make(chan error, 1)
	go func() { ended <- RunChild(command) }()
	ready := filepath.Join(dir, "ready")
	var text []byte
	for began := time.Now(); time.Since(began) < 10*time.Second && len(text) == 0; time.Sleep(time.Millisecond) {
		text, _ = os.ReadFile(ready)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatalf("the inner shell did not start: %q", text)
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("a cancelled child ended well")
	}
	for began := time.Now(); time.Since(began) < 10*time.Second; time.Sleep(time.Millisecond) {
		if err = syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) {
			break
		}
	}
	if !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d goes on: %v", pid, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "cleaned")); err != nil {
		t.Errorf("it could not clean up: %v", err)
	}
}
