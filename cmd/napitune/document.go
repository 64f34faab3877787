package main

import (
	"io"

	"github.com/napitune/napitune/cmd/napitune/report"
)

// document is an answer that can be printed in every format but shell.
type document interface {
	Text(w io.Writer, style report.Style) error
}

// documentFormats are the formats of a document.
func documentFormats() []string { return []string{"text", "json", "yaml"} }

func printDocument(e env, d document, o options) error {
	e.flush()
	switch o.format {
	case "json":
		return report.JSON(e.Stdout, d)
	case "yaml":
		return report.YAML(e.Stdout, d)
	default:
		return d.Text(e.Stdout, o.style)
	}
}
