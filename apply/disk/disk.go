// Package disk keeps journals, lock and history of package apply in a real file
// system. Files are readable by their owner only, and what Append has taken is
// on disk when it returns.
package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/napitune/napitune/apply"
)

// Open gives the files below root, which is "/" on a host. Names are
// slash-separated and relative to it; one that leaves it is an error.
func Open(root string) apply.Files {
	d := directory{root: root}
	return apply.Files{
		MkdirAll: d.mkdirAll, ReadDir: d.readDir, ReadFile: d.readFile, Append: d.append,
		Rename: d.rename, Remove: d.remove, Lock: d.lock, Held: d.held,
	}
}

type directory struct{ root string }

// path turns a name into a path of the system.
func (d directory) path(name string) (string, error) {
	name = strings.TrimPrefix(name, "/")
	if !filepath.IsLocal(filepath.FromSlash(name)) {
		return "", fmt.Errorf("file name %q leaves its directory", name)
	}
	return filepath.Join(d.root, filepath.FromSlash(name)), nil
}

// Journals hold addresses of devices and what a site wants of them: for their
// owner alone.
const (
	fileMode      = 0o600
	directoryMode = 0o700
)

func (d directory) mkdirAll(name string) error {
	path, err := d.path(name)
	if err != nil {
		return err
	}
	return os.MkdirAll(path, directoryMode)
}

func (d directory) readDir(name string) ([]string, error) {
	path, err := d.path(name)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	out := make([]string, len(entries))
	for i, e := range entries {
		out[i] = e.Name()
	}
	return out, nil
}

func (d directory) readFile(name string) ([]byte, error) {
	path, err := d.path(name)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

// append makes the data lasting before it returns. A new file's name is made
// lasting as well, or a crash could lose the file with all that is in it.
func (d directory) append(name string, data []byte) error {
	path, err := d.path(name)
	if err != nil {
		return err
	}
	_, statErr := os.Lstat(path)
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|noFollow, fileMode)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	err = errors.Join(err, file.Close())
	if err == nil && errors.Is(statErr, os.ErrNotExist) {
		err = syncDirectory(filepath.Dir(path))
	}
	return err
}

func (d directory) rename(from, to string) error {
	source, err := d.path(from)
	if err != nil {
		return err
	}
	target, err := d.path(to)
	if err != nil {
		return err
	}
	if err := os.Rename(source, target); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(target))
}

func (d directory) remove(name string) error {
	path, err := d.path(name)
	if err != nil {
		return err
	}
	return os.Remove(path)
}

func syncDirectory(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
