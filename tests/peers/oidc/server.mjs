// The certified OpenID provider as an OAuth issuer on loopback: every way in which a client can show who it is, opaque
// tokens that are introspected and revoked, resource indicators, DPoP with nonces, a token exchange, and people who sign
// in: whoever `login_hint` names sits at the browser and consents, and `/device-approved?user_code=…&who=…` is somebody
// at another device. From `/keys?sign=2&publish=1,2` on it signs with the second key, and publishes these.
//
// One JSON object on stdin says who is known: {"clients":[…],"tls":{"cert","key","ca"},"modules":"…/node_modules"}.
// A client's "key" is its public key in PEM, its "certificate" one in PEM. One line on stdout says where it listens.
import { createPublicKey, generateKeyPairSync, X509Certificate } from 'node:crypto';
import { createRequire } from 'node:module';
import http from 'node:http';
import https from 'node:https';
import { pathToFileURL } from 'node:url';

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const setup = JSON.parse(Buffer.concat(chunks).toString());
const require = createRequire(`${setup.modules}/`);
const { default: Provider } = await import(pathToFileURL(require.resolve('oidc-provider')));

const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';

function client({ key, certificate, life, ...rest }) {
  const known = {
    grant_types: ['client_credentials'],
    redirect_uris: [],
    response_types: [],
    scope: 'contacts.read contacts.write',
    ...rest,
  };
  if (key) {
    known.jwks = { keys: [{ ...createPublicKey(key).export({ format: 'jwk' }), kid: 'k1' }] };
  }
  if (certificate) {
    const x509 = new X509Certificate(certificate);
    const jwk = x509.publicKey.export({ format: 'jwk' });
    known.jwks = { keys: [{ ...jwk, x5c: [x509.raw.toString('base64')] }] };
  }
  return known;
}

const lives = Object.fromEntries(setup.clients.map((one) => [one.client_id, one.life ?? 600]));
const certificateOf = (ctx) => ctx.req.socket.getPeerCertificate?.(true);

const server = http.createServer();
await new Promise((done) => server.listen(0, '127.0.0.1', done));
const issuer = `http://127.0.0.1:${server.address().port}`;

// The library signs with the first key of a set that fits.
const pairs = {};
function keys(numbers) {
  const key = (number) => {
    pairs[number] ??= generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' });
    return { ...pairs[number], kid: `key-${number}`, use: 'sig', alg: 'RS256' };
  };
  return { keys: numbers.map(key) };
}

// What its constructor calls with `jwks`: it knows no other way of rotating them without a restart.
const library = new URL('.', pathToFileURL(require.resolve('oidc-provider')));
const { default: take } = await import(new URL('helpers/initialize_keystore.js', library));
const fetched = { jwks: 0, metadata: 0 };

const provider = new Provider(issuer, {
  clients: setup.clients.map(client),
  jwks: keys(['1']),
  clientAuthMethods: [
    'client_secret_basic',
    'client_secret_post',
    'private_key_jwt',
    'tls_client_auth',
    'self_signed_tls_client_auth',
    'none',
  ],
  scopes: ['openid', 'offline_access', 'contacts.read', 'contacts.write'],
  claims: { openid: ['sub'], email: ['email', 'email_verified'] },
  conformIdTokenClaims: false,
  findAccount: (ctx, id) => ({
    accountId: id,
    claims: () => ({ sub: id, email: `${id}@example.com`, email_verified: true }),
  }),
  interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
  rotateRefreshToken: true,
  ttl: {
    ClientCredentials: (ctx, token, { clientId }) => lives[clientId],
    IdToken: (ctx, token, { clientId }) => lives[clientId],
    AccessToken: 600,
    Grant: 86400,
    Interaction: 600,
    RefreshToken: 86400,
    Session: 3600,
    DeviceCode: 600,
  },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true, allowedPolicy: (ctx, one, token) => token.clientId === one.clientId },
    dPoP: { enabled: true, nonceSecret: Buffer.alloc(32, 7), requireNonce: () => true },
    mTLS: {
      enabled: true,
      tlsClientAuth: true,
      selfSignedTlsClientAuth: true,
      getCertificate(ctx) {
        const certificate = certificateOf(ctx);
        return certificate?.raw ? new X509Certificate(certificate.raw) : undefined;
      },
      certificateAuthorized: (ctx) => ctx.req.socket.authorized === true,
      certificateSubjectMatches(ctx, property, expected) {
        const names = certificateOf(ctx)?.subjectaltname ?? '';
        return property === 'tls_client_auth_san_dns' && names.split(', ').includes(`DNS:${expected}`);
      },
    },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      useGrantedResource: () => true,
      // Below this name are services that read the tokens themselves.
      getResourceServerInfo: (ctx, resource, { clientId }) => ({
        scope: 'contacts.read contacts.write',
        audience: resource,
        accessTokenTTL: resource.startsWith('https://jwt.') ? lives[clientId] : 600,
        accessTokenFormat: resource.startsWith('https://jwt.') ? 'jwt' : 'opaque',
      }),
    },
  },
});

// The provider has no such grant of its own: what is proven is the message, and that both tokens are live ones.
const exchanged = [];
provider.registerGrantType(
  EXCHANGE,
  async (ctx) => {
    const { params, client: asking } = ctx.oidc;
    exchanged.push({ ...params });
    const live = async (token, type) => {
      if (type !== 'urn:ietf:params:oauth:token-type:access_token') return true;
      const found = await provider.ClientCredentials.find(token);
      return Boolean(found && !found.isExpired);
    };
    const good = params.subject_token && await live(params.subject_token, params.subject_token_type)
      && (!params.actor_token || await live(params.actor_token, params.actor_token_type));
    if (!good) {
      ctx.status = 400;
      ctx.body = { error: 'invalid_grant', error_description: 'canary-of-the-issuer' };
      return;
    }
    const token = new provider.ClientCredentials({ client: asking, scope: params.scope });
    token.aud = params.audience;
    ctx.body = {
      access_token: await token.save(),
      issued_token_type: 'urn:ietf:params:oauth:token-type:access_token',
      token_type: 'Bearer',
      expires_in: token.expiration,
      scope: params.scope,
    };
  },
  ['subject_token', 'subject_token_type', 'actor_token', 'actor_token_type', 'audience', 'resource', 'scope'],
  ['resource', 'audience'],
);
const failures = [];
for (const event of ['grant.error', 'authorization.error', 'device_authorization.error', 'introspection.error', 'revocation.error', 'server_error']) {
  provider.on(event, (ctx, error) => failures.push(`${event}: ${error.error_detail ?? error.message}`));
}

async function granted(accountId, clientId) {
  const grant = new provider.Grant({ accountId, clientId });
  grant.addOIDCScope('openid offline_access email');
  return grant.save();
}

// Whoever sits at the browser signs in, and consents to whatever is asked.
async function interact(request, response) {
  const { prompt, params, session } = await provider.interactionDetails(request, response);
  const result = {};
  if (params.login_hint === 'nobody') {
    result.error = 'access_denied';
  } else if (prompt.name === 'login') {
    result.login = { accountId: params.login_hint ?? 'alice' };
  } else {
    result.consent = { grantId: await granted(session.accountId, params.client_id) };
  }
  await provider.interactionFinished(request, response, result, { mergeWithLastSubmission: true });
}

async function approve(query, response) {
  const who = query.get('who');
  const code = await provider.DeviceCode.findByUserCode(query.get('user_code').replace(/\W/g, ''));
  if (who === 'nobody') {
    Object.assign(code, { error: 'access_denied', errorDescription: 'no' });
  } else {
    const grantId = await granted(who, code.clientId);
    const authTime = Math.floor(Date.now() / 1000);
    Object.assign(code, { accountId: who, grantId, authTime, scope: code.params.scope });
  }
  await code.save();
  response.end('done');
}

// What a person's login would leave with a client: a refresh token, the first of its family.
async function begin(id) {
  const known = await provider.Client.find(id);
  const grant = new provider.Grant({ accountId: 'alice', clientId: id });
  grant.addOIDCScope('contacts.read');
  const token = new provider.RefreshToken({
    accountId: 'alice',
    client: known,
    grantId: await grant.save(),
    gty: 'authorization_code',
    scope: 'contacts.read',
  });
  return token.save();
}

const callback = provider.callback();
const failed = (response) => (error) => {
  failures.push(`own: ${error.message}`);
  response.statusCode = 500;
  response.end();
};
const handle = (request, response) => {
  const url = new URL(request.url, issuer);
  if (request.url.startsWith('/begin/')) {
    begin(request.url.slice('/begin/'.length)).then(
      (token) => response.end(token),
      (error) => { response.statusCode = 500; response.end(String(error)); },
    );
    return;
  }
  if (request.url === '/jwks') fetched.jwks += 1;
  if (request.url === '/.well-known/openid-configuration') fetched.metadata += 1;
  if (request.url === '/seen') {
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({ exchanged, failures, fetched }));
  } else if (url.pathname === '/keys') {
    const sign = url.searchParams.get('sign');
    const others = url.searchParams.get('publish').split(',').filter((number) => number !== sign);
    take.call(provider, keys([sign, ...others]));
    response.end('done');
  } else if (url.pathname.startsWith('/interaction/')) {
    interact(request, response).catch(failed(response));
  } else if (url.pathname === '/device-approved') {
    approve(url.searchParams, response).catch(failed(response));
  } else {
    callback(request, response);
  }
};
server.on('request', handle);
const where = { issuer };
if (setup.tls) {
  const mutual = https.createServer({ ...setup.tls, requestCert: true, rejectUnauthorized: false }, handle);
  await new Promise((done) => mutual.listen(0, '127.0.0.1', done));
  where.mutual = `https://127.0.0.1:${mutual.address().port}`;
}
// Whoever reads that line reads no other: what the library says later must not end this.
process.stdout.on('error', () => {});
process.stdout.write(`${JSON.stringify(where)}\n`);
// Whoever started this says that it is done by closing the pipe; stdin was read to its end, so the parent is asked.
const parent = process.ppid;
setInterval(() => { if (process.ppid !== parent) process.exit(0); }, 500);
