//go:build unix

package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/napitune/napitune/apply"
)

// noFollow refuses a symbolic link in place of a journal.
const noFollow = syscall.O_NOFOLLOW

// longestHolder bounds what is read of another's words.
const longestHolder = 200

// lock uses flock(2), which the kernel releases when the process ends in
// whatever way. The file stays: removing it would let two processes lock two
// files of one name.
func (d directory) lock(name, holder string) (func() error, error) {
	path, err := d.path(name)
	if err != nil {
		return nil, err
	}
	file, err := openLock(path)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if err := exclusive(file); err != nil {
		defer func() { _ = file.Close() }()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		return nil, fmt.Errorf("%w: %s", apply.ErrLocked, holderOf(file))
	}
	// Who holds it is for people: without it the lock holds all the same.
	_ = file.Truncate(0)
	_, _ = file.WriteAt([]byte(holder+"\n"), 0)
	return file.Close, nil
}

// openLock opens the file of a lock, for reading where nothing can be written:
// a host whose /run has become read-only is to be rolled back all the same.
func openLock(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|noFollow, fileMode)
	if !errors.Is(err, syscall.EROFS) {
		return file, err
	}
	file, readErr := os.OpenFile(path, os.O_RDONLY|noFollow, 0)
	if errors.Is(readErr, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w, and without that file nothing was applied here since the boot: mount it writable to apply (mount -o remount,rw)", err)
	}
	return file, readErr
}

// held shares the lock for a moment, which only a holder forbids; see exclusive.
func (d directory) held(name string) (holder string, held bool, err error) {
	path, err := d.path(name)
	if err != nil {
		return "", false, err
	}
	file, err := os.OpenFile(path, os.O_RDONLY|noFollow, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("lock: %w", err)
	}
	defer func() { _ = file.Close() }()
	switch err := flock(file, syscall.LOCK_SH); {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return holderOf(file), true, nil
	case err != nil:
		return "", false, fmt.Errorf("lock %s: %w", name, err)
	}
	return "", false, nil
}

func holderOf(file *os.File) string {
	text, _ := io.ReadAll(io.LimitReader(file, longestHolder))
	return string(bytes.TrimSpace(text))
}

// Those who look share the lock for microseconds; a busy machine may stop one
// meanwhile.
const (
	lookTries = 200
	lookPause = 5 * time.Millisecond
)

// exclusive takes the lock, or fails at once where another has it. Where it is
// only looked at, which a shared lock tells, it tries again.
func exclusive(file *os.File) error {
	var err error
	for range lookTries {
		if err = flock(file, syscall.LOCK_EX); !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		if err := flock(file, syscall.LOCK_SH); err != nil {
			return err
		}
		if err := flock(file, syscall.LOCK_UN); err != nil {
			return err
		}
		<-time.After(lookPause)
	}
	return err
}

func flock(file *os.File, how int) error {
	for {
		err := syscall.Flock(int(file.Fd()), how|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
