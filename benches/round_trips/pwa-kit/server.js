// PWA Kit's own server with nothing but its proxy to SLAS for private clients: node server.js HOST:PORT SLAS-URL
'use strict'

// What the managed runtime sets, which the server asks for.
for (const name of ['BUNDLE_ID', 'DEPLOY_TARGET', 'EXTERNAL_DOMAIN_NAME', 'MOBIFY_PROPERTY_ID']) {
    process.env[name] = 'bench'
}
process.env.PWA_KIT_SLAS_CLIENT_SECRET = 'private-client-secret'

const {RemoteServerFactory} = require('@salesforce/pwa-kit-runtime/ssr/server/build-remote-server')

const [listen, slasTarget] = process.argv.slice(2)
const [host, port] = listen.split(':')
const parameters = {
    clientId: '22222222-2222-4222-8222-222222222222',
    organizationId: 'f_ecom_zzrf_001',
    shortCode: 'zzrf0001',
    siteId: 'RefArch'
}
const {app} = RemoteServerFactory.createHandler(
    {
        buildDir: __dirname,
        mobify: {ssrParameters: {}, app: {commerceAPI: {parameters}}},
        useSLASPrivateClient: true,
        slasTarget,
        defaultCacheTimeSeconds: 600
    },
    () => {}
)
app.listen(Number(port), host)
