// A certified authorization server on loopback for the end-to-end tests.
//
// Prints one JSON line on stdout when ready: {issuer, resource_scope, redirect_uri, clients}.
// Serves GET /calls: every token and revocation request it has answered, in order.
// Ends when its stdin closes, so that it never outlives the tests.

import { createServer } from 'node:http';
import { once } from 'node:events';
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
];

function presentedAuthentication(ctx, parameters) {
  if (ctx.headers.authorization?.startsWith('Basic ')) return 'client_secret_basic';
  return parameters?.client_secret === undefined ? 'none' : 'client_secret_post';
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
    clients,
    scopes: ['openid', 'offline_access', ...RESOURCE_SCOPE.split(' ')],
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: true },
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

const server = createServer();
server.listen(0, '127.0.0.1');
await once(server, 'listening');

const calls = [];
const issuer = `http://127.0.0.1:${server.address().port}`;
const answer = buildProvider(issuer, calls).callback();
server.on('request', (request, response) => {
  if (request.url !== '/calls') return answer(request, response);
  return response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(calls));
});

console.log(
  JSON.stringify({ issuer, resource_scope: RESOURCE_SCOPE, redirect_uri: REDIRECT_URI, clients }),
);
