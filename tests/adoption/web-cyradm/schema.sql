CREATE TABLE domain (domain_name VARCHAR(255));
CREATE TABLE virtual (alias VARCHAR(255), dest VARCHAR(255), username VARCHAR(50), status INT);
INSERT INTO domain VALUES ('example.org');
INSERT INTO virtual VALUES ('jack@example.org', 'john', 'john@example.org', 1)
