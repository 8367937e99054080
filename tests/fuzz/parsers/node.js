// Reads lines of base64, each the bytes of one connection; writes what Node's HTTP server made of
// them as a line of JSON: a list of requests, or of errors.
const http = require('http');
const { Duplex } = require('stream');
const readline = require('readline');

function parse(raw, done) {
  const seen = [];
  const finish = () => { clearTimeout(timer); done(seen); done = () => {}; };
  const timer = setTimeout(finish, 2000);
  const server = http.createServer((request, response) => {
    const parts = [];
    request.on('data', (part) => parts.push(part));
    request.on('end', () => {
      const raw = request.rawHeaders;
      const fields = raw.filter((_, i) => i % 2 === 0).map((name, i) => [name, raw[2 * i + 1]]);
      seen.push([request.method, request.url, request.headers.host || '',
        Buffer.concat(parts).toString('base64'), fields]);
      response.end();
      if (request.url === '/sentinel') finish();
    });
  });
  server.on('clientError', (error, socket) => { seen.push([error.code]); socket.destroy(); finish(); });
  const socket = new Duplex({ read() {}, write(chunk, encoding, next) { next(); } });
  socket.on('finish', finish);
  server.emit('connection', socket);
  socket.push(raw);
}

const lines = readline.createInterface({ input: process.stdin });
lines.on('line', (line) => {
  parse(Buffer.from(line, 'base64'), (seen) => process.stdout.write(JSON.stringify(seen) + '\n'));
});
