//go:build !unix

package disk

import "errors"

const noFollow = 0

// lock has no stand-in where there is no flock(2): two at once could not be
// kept apart, so none may begin.
func (d directory) lock(string, string) (func() error, error) {
	return nil, errors.ErrUnsupported
}

func (d directory) held(string) (string, bool, error) {
	return "", false, errors.ErrUnsupported
}
