// GET and POST with node's fetch; argv: url, body. Prints [status, answer] of each.
// UNDICI is the folder of an undici package where fetch itself does not read proxy variables.
if (process.env.UNDICI) {
  const { EnvHttpProxyAgent, setGlobalDispatcher } = require(process.env.UNDICI);
  setGlobalDispatcher(new EnvHttpProxyAgent());
}

(async () => {
  const [url, body] = process.argv.slice(2);
  const headers = { "X-Search-Key": process.env.SEARCH_KEY };
  const answers = [];
  for (const more of [{}, { method: "POST", body }]) {
    const answer = await fetch(url, { headers, ...more });
    answers.push([answer.status, await answer.text()]);
  }
  console.log(JSON.stringify(answers));
})();
