-- Verifies ES256 bearer tokens, and keeps those that it has verified until they end: what a platform
-- team writes by hand in front of an API.
local ffi = require "ffi"
local cjson = require "cjson"
local lrucache = require "resty.lrucache"
local base64 = require "ngx.base64"

ffi.cdef [[
void *BIO_new_mem_buf(const void *buf, int len);
void *PEM_read_bio_PUBKEY(void *bio, void **key, void *callback, void *argument);
void *EVP_MD_CTX_new(void);
void EVP_MD_CTX_free(void *context);
const void *EVP_sha256(void);
int EVP_DigestVerifyInit(void *context, void **key_context, const void *type, void *engine, void *key);
int EVP_DigestVerify(void *context, const unsigned char *signature, size_t length, const unsigned char *data, size_t size);
]]

local Verified = {}
Verified.__index = Verified

local function integer(bytes)
  bytes = bytes:gsub("^%z+", "")
  if bytes:byte(1) >= 0x80 then bytes = "\0" .. bytes end
  return "\2" .. string.char(#bytes) .. bytes
end

local function der(signature)
  local body = integer(signature:sub(1, 32)) .. integer(signature:sub(33))
  return "\48" .. string.char(#body) .. body
end

function Verified.new(path)
  local file = assert(io.open(path))
  local pem = file:read("*a")
  file:close()
  local key = ffi.C.PEM_read_bio_PUBKEY(ffi.C.BIO_new_mem_buf(pem, #pem), nil, nil, nil)
  assert(key ~= nil, "no public key")
  return setmetatable({ key = key, pem = pem, cache = assert(lrucache.new(100000)) }, Verified)
end

function Verified:verify(token)
  local signed, header, payload, signature = token:match("^(([^.]+)%.([^.]+))%.([^.]+)$")
  if not signed then return nil end
  signature = base64.decode_base64url(signature)
  if not signature or #signature ~= 64 then return nil end
  local head = cjson.decode(base64.decode_base64url(header))
  if head.alg ~= "ES256" then return nil end
  local context = ffi.C.EVP_MD_CTX_new()
  local encoded = der(signature)
  local good = ffi.C.EVP_DigestVerifyInit(context, nil, ffi.C.EVP_sha256(), nil, self.key) == 1
    and ffi.C.EVP_DigestVerify(context, encoded, #encoded, signed, #signed) == 1
  ffi.C.EVP_MD_CTX_free(context)
  if not good then return nil end
  return cjson.decode(base64.decode_base64url(payload))
end

function Verified:check()
  local authorization = ngx.var.http_authorization
  local token = authorization and authorization:match("^Bearer (.+)$")
  if not token then return ngx.exit(401) end
  local claims = self.cache:get(token)
  if not claims then
    local fine
    fine, claims = pcall(self.verify, self, token)
    if not fine or not claims then return ngx.exit(401) end
    self.cache:set(token, claims, claims.exp - ngx.now())
  end
  if claims.exp <= ngx.now() or not claims.scp:find("sfcc.shopper-products", 1, true) then return ngx.exit(403) end
end

return Verified
