// There is no model: why, and what to do.
import { html, useState } from "../common.js";
import { open } from "../actions.js";

export function Failed({ failed }) {
  const [token, setToken] = useState("");
  const enter = (event) => {
    event.preventDefault();
    location.assign(`/?token=${encodeURIComponent(token)}`);
  };
  const needsToken = failed.status === 401;
  return html`<main class="failed panel" role="alert">
    <h1>${needsToken ? "This studio needs its token" : failed.error}</h1>
    <p>${needsToken ? "Open the address that open4m studio printed when it was started, or type the token." : failed.hint}</p>
    ${needsToken
      ? html`<form class="row" onSubmit=${enter}><label class="inline">Token <input type="password" value=${token} onInput=${(event) => setToken(event.target.value)} autocomplete="off" /></label><button class="primary">Enter</button></form>`
      : html`<button class="primary" onClick=${open}>Try again</button>`}
  </main>`;
}
