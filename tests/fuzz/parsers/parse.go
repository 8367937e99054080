// Reads lines of base64, each the bytes of one connection; writes what Go's net/http made of them
// as a line of JSON: a list of requests, or of errors.
package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"os"
)

// One character for each byte, as JSON has no bytes.
func text(value string) string {
	characters := []rune{}
	for _, b := range []byte(value) {
		characters = append(characters, rune(b))
	}
	return string(characters)
}

func parse(raw []byte) [][]any {
	seen := [][]any{}
	reader := bufio.NewReader(bytes.NewReader(raw))
	for {
		request, err := http.ReadRequest(reader)
		if err == io.EOF {
			return seen
		}
		if err != nil {
			return append(seen, []any{err.Error()})
		}
		body, err := io.ReadAll(request.Body)
		if err != nil {
			return append(seen, []any{err.Error()})
		}
		encoded := base64.StdEncoding.EncodeToString(body)
		fields := [][]string{}
		for name, values := range request.Header {
			for _, value := range values {
				fields = append(fields, []string{name, text(value)})
			}
		}
		seen = append(seen, []any{request.Method, request.RequestURI, request.Host, encoded, fields})
	}
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		raw, err := base64.StdEncoding.DecodeString(lines.Text())
		if err != nil {
			panic(err)
		}
		line, _ := json.Marshal(parse(raw))
		os.Stdout.Write(append(line, '\n'))
	}
}
