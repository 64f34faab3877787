//go:build !linux

package place

import (
	"testing"
	"time"
)

var began = time.Now()

// clock is the time that has passed.
func clock(*testing.T) time.Duration { return time.Since(began) }
