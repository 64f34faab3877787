// Package napitune holds the documents of the module root that the command
// shows. It has no behaviour of its own.
package napitune

import _ "embed"

//go:embed GLOSSARY.md
var glossary string

// Glossary is the text of GLOSSARY.md.
func Glossary() string { return glossary }
