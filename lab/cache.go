package lab

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/napitune/napitune/lab/guest"
)

// Cache is the directory of everything that was built for guests. It may be
// deleted at any time; "lab build" fills it again.
type Cache struct{ Dir string }

// DefaultCache is LAB_CACHE, or napitune-lab in the user's cache directory.
func DefaultCache() (Cache, error) {
	if dir := os.Getenv("LAB_CACHE"); dir != "" {
		dir, err := filepath.Abs(dir)
		return Cache{dir}, err
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return Cache{}, fmt.Errorf("no cache directory (set LAB_CACHE): %w", err)
	}
	return Cache{filepath.Join(base, "napitune-lab")}, nil
}

// root is the squashfs image of Debian that all kernels share. Its name, like
// those of the kernels' directories, says what it was made by: a changed recipe
// is built anew.
func (c Cache) root() string {
	return filepath.Join(c.Dir, "root-"+recipe(rootSuite, strings.Join(rootPackages(), " "), string(guest.Trim))+".squashfs")
}

// kernel is a file of one kernel: vmlinux, initrd or release.
func (c Cache) kernel(name, file string) string {
	made := recipe(name, strings.Join(guestModules(), " "), string(guest.Init), string(guest.Pack))
	return filepath.Join(c.Dir, "kernel-"+name+"-"+made, file)
}

// emulator is QEMU with where its firmware lies: the one that Build unpacked,
// else the system's.
func (c Cache) emulator() (program string, firmware []string) {
	dir := filepath.Join(c.Dir, emulatorDir)
	program = filepath.Join(dir, "usr/bin/qemu-system-x86_64")
	if _, err := os.Stat(program); err != nil {
		return "qemu-system-x86_64", nil
	}
	return program, []string{"-L", filepath.Join(dir, "usr/share/qemu"), "-L", filepath.Join(dir, "usr/share/seabios")}
}

func recipe(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:4])
}

// Missing says what must be built before a machine can boot, empty if nothing.
func (c Cache) Missing(m Machine) string {
	for _, path := range []string{c.root(), c.kernel(m.Kernel, "release")} {
		if _, err := os.Stat(path); err != nil {
			return "the lab is not built (no " + path + "): run go run ./lab/cmd/lab build --kernel " + m.Kernel
		}
	}
	return ""
}
