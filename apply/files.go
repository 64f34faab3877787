package apply

// Files is the little of a file system that journal, lock and history need.
// Package apply/disk has the real one; tests use one in memory that can be full,
// torn or gone. Names are slash-separated and relative to the root of the seam.
// Errors for what does not exist wrap fs.ErrNotExist.
type Files struct {
	// MkdirAll makes a directory and those above it, readable by its owner only.
	MkdirAll func(dir string) error
	// ReadDir lists the names in a directory.
	ReadDir func(dir string) ([]string, error)
	// ReadFile reads a whole file.
	ReadFile func(name string) ([]byte, error)
	// Append adds data to a file, which it makes if need be, and returns only
	// when the data and, for a new file, its name are on disk. After an error
	// any part of the data may have been written.
	Append func(name string, data []byte) error
	// Rename gives a file another name in its directory, lastingly.
	Rename func(from, to string) error
	// Remove takes a file away.
	Remove func(name string) error
	// Lock takes an exclusive lock that dies with the process, leaves holder
	// in the file for others to read, and fails at once with ErrLocked and the
	// other's text where another has it.
	Lock func(name, holder string) (release func() error, err error)
	// Held reports whether a process has the lock, and the holder that it left.
	// It makes and writes nothing, and no Lock fails because of it. nil means
	// that this cannot be told.
	Held func(name string) (holder string, held bool, err error)
}
