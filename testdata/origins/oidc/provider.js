// An OpenID Connect provider whose access tokens are JWTs with a claim "topics".
//
//   npm ci
//   PORT=9000 CLIENTS='orders,prices orders:20' node provider.js
//
// Clients ask for tokens by client_credentials. What a client is called says what
// its tokens are good for: "orders,prices" may read these topics; "orders:20"
// may read one, for 20 seconds. CLIENTS lists them, and their secret is "secret".
//
// POST /rotate signs with a new key from then on, and publishes the old ones as
// well; POST /retire takes the old ones back.

import { createServer } from "node:http";
import { generateKeyPairSync } from "node:crypto";
import Provider from "oidc-provider";

const port = Number(process.env.PORT);
const issuer = `http://127.0.0.1:${port}`;
const resource = "https://live.example";

let made = 0;
function newKey() {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  return { ...privateKey.export({ format: "jwk" }), kid: `key-${++made}`, alg: "RS256", use: "sig" };
}

// What a client is called says what its tokens are good for.
function meaning(name) {
  const [topics, seconds] = name.split(":");
  return { topics: topics.split(","), seconds: Number(seconds ?? 600) };
}

const clients = (process.env.CLIENTS ?? "").split(" ").filter(Boolean).map((client_id) => ({
  client_id,
  client_secret: "secret",
  grant_types: ["client_credentials"],
  redirect_uris: [],
  response_types: [],
  token_endpoint_auth_method: "client_secret_post",
}));

function newProvider(keys) {
  return new Provider(issuer, {
    clients,
    jwks: { keys },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => resource,
        useGrantedResource: () => true,
        getResourceServerInfo: (ctx, indicator, client) => ({
          audience: "live",
          scope: "read",
          accessTokenFormat: "jwt",
          accessTokenTTL: meaning(client.clientId).seconds,
          jwt: { sign: { alg: "RS256" } },
        }),
      },
    },
    extraTokenClaims: (ctx, token) => ({ topics: meaning(token.clientId).topics }),
  }).callback();
}

let keys = [newKey()];
let answer = newProvider(keys);

createServer((request, response) => {
  if (request.method === "POST" && ["/rotate", "/retire"].includes(request.url)) {
    keys = request.url === "/rotate" ? [newKey(), ...keys] : keys.slice(0, 1);
    answer = newProvider(keys);
    response.end(`${keys.map((key) => key.kid)}\n`);
    return;
  }
  answer(request, response);
}).listen(port, "127.0.0.1");
