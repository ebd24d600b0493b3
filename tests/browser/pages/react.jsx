// A shop with @salesforce/commerce-sdk-react 5.4.0: search, basket, login and logout. The tests set `window.providerConfig`, and use
// the page by its buttons.
import {
  AuthHelpers,
  CommerceApiProvider,
  useAuthHelper,
  useCategory,
  useCustomerBaskets,
  useCustomerId,
  useCustomerType,
  useProductSearch,
  useShopperBasketsV2MutationHelper,
} from "@salesforce/commerce-sdk-react";
import { QueryClient, QueryClientProvider, useIsMutating } from "@tanstack/react-query";
import { useState } from "react";
import { createRoot } from "react-dom/client";

function Shop() {
  // With sessions in cookies the SDK's hooks read the cookies of the moment, so the shop renders after the first query, and after
  // logins and logouts.
  const { data: catalog } = useCategory({ parameters: { id: "root" } });
  useIsMutating();
  const customerId = useCustomerId();
  const { customerType } = useCustomerType();
  return (
    <>
      <h1>{catalog?.name}</h1>
      <p>
        <output id="customer-type">{customerType}</output> <output id="customer-id">{customerId}</output>
      </p>
      <Search />
      <Basket customerId={customerId} />
      <Session />
    </>
  );
}

function Search() {
  const [q, setQ] = useState("");
  const { data, error } = useProductSearch({ parameters: { q } }, { enabled: q !== "" });
  const { addItemToNewOrExistingBasket } = useShopperBasketsV2MutationHelper();
  return (
    <section>
      <input aria-label="Search" onChange={(event) => setQ(event.target.value)} />
      <output id="search-error">{error?.message}</output>
      <ul>
        {data?.hits?.map((hit) => (
          <li key={hit.productId}>
            {hit.productName}
            <button onClick={() => addItemToNewOrExistingBasket([{ productId: hit.productId, quantity: 1 }])}>Add</button>
          </li>
        ))}
      </ul>
    </section>
  );
}

function Basket({ customerId }) {
  const { data } = useCustomerBaskets({ parameters: { customerId } }, { enabled: Boolean(customerId) });
  const items = data?.baskets?.[0]?.productItems ?? [];
  return <output id="basket">{items.map((item) => `${item.quantity} ${item.productName}`).join(", ") || "empty"}</output>;
}

function Session() {
  const login = useAuthHelper(AuthHelpers.LoginRegisteredUserB2C);
  const logout = useAuthHelper(AuthHelpers.Logout);
  const submit = (event) => {
    event.preventDefault();
    login.mutate(Object.fromEntries(new FormData(event.target)));
  };
  return (
    <>
      <form onSubmit={submit}>
        <input name="username" aria-label="Login" />
        <input name="password" aria-label="Password" type="password" />
        <button>Log in</button>
        <output id="login-error">{login.error?.message}</output>
      </form>
      <button onClick={() => logout.mutate()}>Log out</button>
    </>
  );
}

const queries = new QueryClient({ defaultOptions: { queries: { retry: false } } });
createRoot(document.querySelector("main")).render(
  <QueryClientProvider client={queries}>
    <CommerceApiProvider {...window.providerConfig} locale="en-US" currency="USD">
      <Shop />
    </CommerceApiProvider>
  </QueryClientProvider>,
);
