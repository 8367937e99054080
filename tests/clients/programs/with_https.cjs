// GET and POST with node's https module; argv: url, body. Prints [status, answer] of each.
// The module knows no proxy variables before node 22.21, so the agent opens the tunnel itself.
const http = require("node:http");
const https = require("node:https");
const tls = require("node:tls");

class TunnelAgent extends https.Agent {
  createConnection(options, done) {
    const proxy = new URL(process.env.HTTPS_PROXY);
    const authority = `${options.host}:${options.port}`;
    const headers = { Host: authority };
    if (proxy.username) {
      const pair = `${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`;
      headers["Proxy-Authorization"] = "Basic " + Buffer.from(pair).toString("base64");
    }
    http
      .request({ host: proxy.hostname, port: proxy.port, method: "CONNECT", path: authority, headers })
      .once("connect", (answer, socket) => {
        if (answer.statusCode === 200) done(null, tls.connect({ ...options, socket, servername: options.host }));
        else done(new Error(`CONNECT was answered ${answer.statusCode}`));
      })
      .once("error", done)
      .end();
  }
}

const agent = new TunnelAgent({ keepAlive: true });

function send(url, method, body) {
  return new Promise((resolve, reject) => {
    const headers = { "X-Search-Key": process.env.SEARCH_KEY };
    const request = https.request(url, { method, agent, headers }, async (answer) => {
      let text = "";
      for await (const piece of answer) text += piece;
      resolve([answer.statusCode, text]);
    });
    request.once("error", reject);
    request.end(body);
  });
}

(async () => {
  const [url, body] = process.argv.slice(2);
  const answers = [await send(url, "GET"), await send(url, "POST", body)];
  agent.destroy();
  console.log(JSON.stringify(answers));
})();
