-- Written by hand: from the schema of 0001 to what tables.py says. 0002_functions.sql (generated) runs after it.

-- while tables are small the planner takes any partial index whose condition holds
drop index operation_due_idx;
drop index port_vm_idx;
create index port_vm_idx on port (vm_id);
