// A certified authorization server on loopback for the end-to-end tests.
//
// Its argument is a folder with ca.pem, server.pem, server.key and self-signed.pem, the certificate of a client.
// Prints one JSON line on stdout when ready: {issuer, mtls_origin, resource_scope, redirect_uri, clients}.
// All endpoints are also at mtls_origin, over TLS, where clients may show a certificate (RFC 8705).
// Serves GET /calls: every token and revocation request it has answered, in order.
// Ends when its stdin closes, so that it never outlives the tests.

import { X509Certificate, createPrivateKey, createPublicKey, generateKeyPairSync } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { join } from 'node:path';
import { Provider } from 'oidc-provider';

const REDIRECT_URI = 'https://app.example.com/callback';
const RESOURCE_SCOPE = 'api.read api.write';
const COUNTED = { '/token': 'token', '/token/revocation': 'revocation' };

const userGrants = {
  redirect_uris: [REDIRECT_URI],
  response_types: ['code'],
  grant_types: ['authorization_code', 'refresh_token'],
  scope: 'openid offline_access',
};
const serviceGrants = {
  ...userGrants,
  grant_types: [...userGrants.grant_types, 'client_credentials'],
  scope: `openid offline_access ${RESOURCE_SCOPE}`,
};

const folder = process.argv[2];
const read = (name) => readFileSync(join(folder, name), 'utf8');

// Keys that sign, made anew for each run; `private_pem` and `private_jwk` are told to the tests only.
const privateKeys = {
  RS256: () => privateKey('rsa', { modulusLength: 2048 }),
  PS256: () => privateKey('rsa', { modulusLength: 2048 }),
  ES256: () => privateKey('ec', { namedCurve: 'P-256' }),
  EdDSA: () => privateKey('ed25519'),
};

// In PEM: to export both halves of one generated pair can hang (Node.js 20), for they share a lock.
function privateKey(kind, options = {}) {
  const encoded = {
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  };
  return generateKeyPairSync(kind, { ...options, ...encoded }).privateKey;
}

function signingClient(algorithm) {
  const pem = privateKeys[algorithm]();
  const naming = { kid: `key-${algorithm}`, use: 'sig' };
  return {
    ...serviceGrants,
    client_id: `signing-client-${algorithm}`,
    token_endpoint_auth_method: 'private_key_jwt',
    token_endpoint_auth_signing_alg: algorithm,
    jwks: { keys: [{ ...createPublicKey(pem).export({ format: 'jwk' }), ...naming }] },
    private_pem: pem,
    private_jwk: JSON.stringify({ ...createPrivateKey(pem).export({ format: 'jwk' }), ...naming }),
  };
}

function selfSignedKey() {
  const { publicKey, raw } = new X509Certificate(read('self-signed.pem'));
  return { ...publicKey.export({ format: 'jwk' }), x5c: [raw.toString('base64')] };
}

// Ids and secrets that survive HTTP Basic only when form-encoded first (RFC 6749, section 2.3.1).
const clients = [
  {
    ...serviceGrants,
    client_id: 'basic:client +1',
    client_secret: 's3cr%t+/: &=?"~%41',
    token_endpoint_auth_method: 'client_secret_basic',
  },
  {
    ...serviceGrants,
    client_id: 'post-client',
    client_secret: 'p0st+s3cr%t/: &=~%41',
    token_endpoint_auth_method: 'client_secret_post',
  },
  {
    ...userGrants,
    client_id: 'public-client',
    token_endpoint_auth_method: 'none',
    application_type: 'native',
  },
  {
    ...serviceGrants,
    client_id: 'secret-jwt-client',
    client_secret: 'a-secret-that-is-shared-and-never-sent-+/: &=?"~%41',
    token_endpoint_auth_method: 'client_secret_jwt',
    token_endpoint_auth_signing_alg: 'HS256',
  },
  ...Object.keys(privateKeys).map(signingClient),
  {
    ...serviceGrants,
    client_id: 'tls-client',
    token_endpoint_auth_method: 'tls_client_auth',
    tls_client_auth_subject_dn: 'CN=tls-client',
  },
  {
    ...serviceGrants,
    client_id: 'self-signed-client',
    token_endpoint_auth_method: 'self_signed_tls_client_auth',
    jwks: { keys: [selfSignedKey()] },
  },
];

function registration({ private_pem, private_jwk, ...metadata }) {
  return metadata;
}

const certificateOf = (ctx) => ctx.socket.getPeerX509Certificate?.();

function presentedAlgorithm(assertion) {
  return JSON.parse(Buffer.from(assertion.split('.')[0], 'base64url')).alg;
}

function presentedAuthentication(ctx, parameters) {
  if (ctx.headers.authorization?.startsWith('Basic ')) return 'client_secret_basic';
  if (parameters?.client_secret !== undefined) return 'client_secret_post';
  if (parameters?.client_assertion !== undefined) return presentedAlgorithm(parameters.client_assertion);
  return certificateOf(ctx)?.subject ?? 'none';
}

function recordCallsIn(calls) {
  return async (ctx, next) => {
    await next();
    if (!(ctx.path in COUNTED)) return;
    const parameters = ctx.oidc?.body; // kept by oidc-provider: the form as it came
    calls.push({
      endpoint: COUNTED[ctx.path],
      status: ctx.status,
      error: ctx.body?.error ?? null,
      grant_type: parameters?.grant_type ?? null,
      authentication: presentedAuthentication(ctx, parameters),
    });
  };
}

function buildProvider(issuer, calls) {
  const provider = new Provider(issuer, {
    clients: clients.map(registration),
    clientAuthMethods: clients.map((client) => client.token_endpoint_auth_method),
    scopes: ['openid', 'offline_access', ...RESOURCE_SCOPE.split(' ')],
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: true },
      mTLS: {
        enabled: true,
        tlsClientAuth: true,
        selfSignedTlsClientAuth: true,
        getCertificate: certificateOf,
        certificateAuthorized: (ctx) => ctx.socket.authorized,
        certificateSubjectMatches: (ctx, _property, expected) =>
          certificateOf(ctx).subject === expected,
      },
      revocation: { enabled: true },
    },
    cookies: { keys: ['not-a-secret'] },
    pkce: { required: () => true },
    rotateRefreshToken: true,
    ttl: {
      AccessToken: 3600,
      AuthorizationCode: 60,
      ClientCredentials: 3600,
      Grant: 86400,
      IdToken: 3600,
      Interaction: 600,
      RefreshToken: 86400,
      Session: 86400,
    },
  });
  provider.on('server_error', (_ctx, error) => console.error(error));
  provider.use(recordCallsIn(calls));
  return provider;
}

console.info = console.error; // notices go to stderr: stdout carries the ready line only
process.stdin.resume().once('close', () => process.exit(0)).once('end', () => process.exit(0));

async function listening(server) {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server.address().port;
}

const server = createServer();
const tlsServer = createTlsServer({
  key: read('server.key'),
  cert: read('server.pem'),
  ca: read('ca.pem'),
  requestCert: true,
  rejectUnauthorized: false, // that is for the methods to decide
});
const calls = [];
const issuer = `http://127.0.0.1:${await listening(server)}`;
const mtls_origin = `https://127.0.0.1:${await listening(tlsServer)}`;
const answer = buildProvider(issuer, calls).callback();
server.on('request', (request, response) => {
  if (request.url !== '/calls') return answer(request, response);
  return response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(calls));
});

tlsServer.on('request', answer);

console.log(
  JSON.stringify({
    issuer,
    mtls_origin,
    resource_scope: RESOURCE_SCOPE,
    redirect_uri: REDIRECT_URI,
    clients,
  }),
);
