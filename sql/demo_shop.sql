-- A small shop: one table for each thing that makes copying data hard.

CREATE TABLE customers (
    id            bigint PRIMARY KEY,
    public_id     uuid NOT NULL UNIQUE,
    email         text NOT NULL,
    name          text NOT NULL,
    newsletter    boolean NOT NULL,
    birthday      date,
    preferences   jsonb NOT NULL,
    credit        numeric(10, 2) NOT NULL DEFAULT 0,
    signed_up_at  timestamptz NOT NULL DEFAULT now()
);

-- A natural key that the shop changes now and then, together with every row that refers to it.
CREATE TABLE products (
    sku         text PRIMARY KEY,
    name        text NOT NULL,
    tags        text[] NOT NULL,
    price       numeric(12, 2) NOT NULL,
    cost        numeric,
    weight_kg   double precision,
    stock       integer NOT NULL,
    active      boolean NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE orders (
    id                bigint PRIMARY KEY,
    reference         uuid NOT NULL,
    customer_id       bigint NOT NULL REFERENCES customers ON DELETE CASCADE,
    status            text NOT NULL,
    total             numeric(14, 2) NOT NULL,
    currency          char(3) NOT NULL,
    gift              boolean NOT NULL,
    shipping_address  jsonb,
    note              text,
    placed_at         timestamptz NOT NULL DEFAULT now(),
    paid_at           timestamptz
);
CREATE INDEX ON orders (customer_id);

CREATE TABLE order_items (
    order_id    bigint REFERENCES orders ON DELETE CASCADE,
    line_no     smallint,
    sku         text NOT NULL REFERENCES products ON UPDATE CASCADE,
    quantity    integer NOT NULL,
    unit_price  numeric(12, 2) NOT NULL,
    PRIMARY KEY (order_id, line_no)
);
CREATE INDEX ON order_items (sku);

-- The body is large and stored out of line (TOAST): an update that leaves it alone does not send it.
CREATE TABLE support_tickets (
    id                 bigint PRIMARY KEY,
    customer_id        bigint NOT NULL REFERENCES customers ON DELETE CASCADE,
    subject            varchar(200) NOT NULL,
    body               text NOT NULL,
    status             text NOT NULL,
    priority           smallint NOT NULL,
    labels             text[],
    attachment_sha256  bytea,
    first_response     interval,
    opened_at          timestamptz NOT NULL DEFAULT now(),
    closed_at          timestamptz
);
ALTER TABLE support_tickets ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX ON support_tickets (customer_id);

-- No key, and rows that are equal in everything: only the whole old row says which one is meant.
CREATE TABLE page_views (
    customer_id  bigint,
    path         text NOT NULL,
    referrer     text,
    duration_ms  integer,
    viewed_at    timestamp NOT NULL DEFAULT date_trunc('minute', now() AT TIME ZONE 'UTC')
);
ALTER TABLE page_views REPLICA IDENTITY FULL;
CREATE INDEX ON page_views (customer_id);

-- Emptied with TRUNCATE, and filled anew.
CREATE TABLE flash_offers (
    sku      text PRIMARY KEY REFERENCES products ON UPDATE CASCADE,
    percent  smallint NOT NULL,
    ends_at  time NOT NULL
);
