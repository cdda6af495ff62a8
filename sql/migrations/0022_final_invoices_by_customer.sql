-- migrate:up
-- Whether a segment's invoice is final is asked by customer: by mapping, each question reads every customer's invoices.

-- squawk-ignore require-concurrent-index-creation
create index invoice_closings_final on invoice_closings (customer_ref) where finalized_at is not null;
-- squawk-ignore require-concurrent-index-deletion
drop index invoice_windows_by_mapping;

-- migrate:down
-- squawk-ignore require-concurrent-index-creation
create index invoice_windows_by_mapping on invoice_windows (mapping_id, starts_at);
-- squawk-ignore require-concurrent-index-deletion
drop index invoice_closings_final;
