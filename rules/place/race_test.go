//go:build race

package place

// raceDetector slows everything down some ten times.
const raceDetector = true
